# acl.sh DIR prints what a local file system says about ACLs, in DIR/acl.
cd "$1"
mkdir acl
cd acl
umask 022
as() { setpriv --reuid $1 --regid $1 --clear-groups -- sh -c "$2" 2>&1 | sed 's/^sh: [0-9]*: //'; }
perm() { stat -c '%n %a %u %g %h' "$@"; }
acls() { getfacl -nE "$@" 2>&1; }
chmod 755 .
echo 'secret' >f; chmod 640 f
as 1001 'cat f'; setfacl -m u:1001:r f; as 1001 'cat f'; as 1001 'echo x >>f'; perm f; acls f
setfacl -m u:1001:rw,g:2000:r f; perm f; as 1001 'echo x >>f && cat f'; acls f
chmod 600 f; perm f; acls f; as 1001 'cat f'
chmod 664 f; perm f; acls f; as 1001 'cat f'
setfacl -m m::r f; perm f; as 1001 'echo y >>f'
setfacl -x u:1001 f; perm f; acls f; setfacl -b f; perm f; acls f
setfacl -k f; echo "k $?"; setfacl -d -m u:1:r f; echo "default on a file $?"
setfacl -m u::r--,g::---,o::--- f; perm f; acls f; getfattr -m - f
mkdir dir; chmod 2775 dir; chgrp 3000 dir; setfacl -d -m u:1001:rwx,g::rx,o::- dir; perm dir; acls dir; getfattr -m - dir | sort
umask 077; touch dir/file; mkdir dir/sub; mkfifo dir/fifo; ln -s x dir/link; umask 022
perm dir/*; acls dir/file; acls dir/sub; acls dir/fifo
mkdir -m 700 dir/m700; perm dir/m700; acls dir/m700; cp /bin/true dir/prog; perm dir/prog
as 1001 'touch dir/sub/by1001 && echo made'; perm dir/sub/*
as 1002 'touch dir/sub/by1002 && echo made'
as 1001 'setfacl -m u:1002:rwx dir/sub'; as 1001 'setfacl -m u:1002:rwx dir/sub/by1001 && getfacl -nE dir/sub/by1001'
setfacl -k dir; umask 027; touch dir/nodefault; mkdir dir/nosub; perm dir/nodefault dir/nosub; umask 022
setfacl -d -m u::rwx,g::r-x,o::--- dir; touch dir/small; mkdir dir/smallsub; perm dir/small dir/smallsub; acls dir/small dir/smallsub
cp -a dir copy; acls -R copy | grep -v '^# file' | sort | uniq -c
ln dir/small dir/hard; setfacl -m u:5:r dir/hard; acls dir/small; perm dir/small
mv dir/small moved; acls moved; chown 7:8 moved; perm moved; acls moved
# who may not keep sgid: not in the group
touch sg; chown 1001:4000 sg; chmod 2755 sg; as 1001 'setfacl -m u:9:r sg'; perm sg
touch sg2; chown 1001:1001 sg2; chmod 2755 sg2; as 1001 'setfacl -m u:9:r sg2'; perm sg2
setfattr -n system.posix_acl_access -v 0x0100000001 f; echo "bad $?"
setfattr -n system.posix_acl_access -v 0x02000000010006000000000004000600ffffffff f 2>&1; echo "bad $?"
setfattr -n system.posix_acl_access -v 0x02000000 f; echo "empty $?"; acls f
setfattr -x system.posix_acl_default f; echo "remove $?"; setfattr -n system.other -v 1 f 2>&1
for i in $(seq 1 200); do e="$e,u:$((10000+i)):r"; done; setfacl -m "${e#,}" f; echo "many $?"; acls f | wc -l
setfattr -n user. -v 1 f 2>&1; setfattr -n nonsense -v 1 f 2>&1; getfattr -n nonsense f 2>&1
echo end
